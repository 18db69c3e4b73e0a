//! Scores rows of numbers from Rust, through the C interface.
//!
//!   rustc -O score.rs -L native=/where/evenflow/is/lib
//!   score MODEL ROWS.csv       log p of every row, nats, one a line

use std::ffi::{c_char, c_void, CStr, CString};
use std::ptr::{null, null_mut};

const FLOAT32: i32 = 1;

#[repr(C)]
struct Info {
    struct_size: usize,
    dtype: i32,
    bits: i32,
    dims: i64,
    height: i64,
    width: i64,
    channels: i64,
    classes: i64,
}

#[link(name = "evenflow")]
extern "C" {
    fn evenflow_last_error() -> *const c_char;
    fn evenflow_load(path: *const c_char, model: *mut *mut c_void) -> i32;
    fn evenflow_model_free(model: *mut c_void);
    fn evenflow_model_get_info(model: *const c_void, info: *mut Info) -> i32;
    fn evenflow_context_create(threads: i32, context: *mut *mut c_void) -> i32;
    fn evenflow_context_free(context: *mut c_void);
    fn evenflow_log_prob(
        model: *const c_void, context: *mut c_void, dtype: i32, x: *const c_void, n: i64,
        options: *const c_void, out: *mut f64,
    ) -> i32;
}

fn check(status: i32) -> Result<(), String> {
    if status == 0 {
        return Ok(());
    }
    // The text stays valid until this thread's next failure.
    Err(unsafe { CStr::from_ptr(evenflow_last_error()) }.to_string_lossy().into_owned())
}

/// A model and the scratch memory of this thread's calls.
struct Scorer {
    model: *mut c_void,
    context: *mut c_void,
    dims: usize,
}

impl Scorer {
    fn load(path: &str) -> Result<Scorer, String> {
        let mut scorer = Scorer { model: null_mut(), context: null_mut(), dims: 0 };
        let path = CString::new(path).map_err(|e| e.to_string())?;
        let mut info = Info {
            struct_size: std::mem::size_of::<Info>(),
            dtype: 0, bits: 0, dims: 0, height: 0, width: 0, channels: 0, classes: 0,
        };
        unsafe {
            check(evenflow_load(path.as_ptr(), &mut scorer.model))?;
            check(evenflow_context_create(0, &mut scorer.context))?;
            check(evenflow_model_get_info(scorer.model, &mut info))?;
        }
        scorer.dims = info.dims as usize;
        Ok(scorer)
    }

    fn log_prob(&mut self, rows: &[f32]) -> Result<Vec<f64>, String> {
        let mut out = vec![0.0; rows.len() / self.dims];
        check(unsafe {
            evenflow_log_prob(
                self.model, self.context, FLOAT32, rows.as_ptr().cast(), out.len() as i64, null(),
                out.as_mut_ptr(),
            )
        })?;
        Ok(out)
    }
}

impl Drop for Scorer {
    fn drop(&mut self) {
        unsafe {
            evenflow_context_free(self.context);
            evenflow_model_free(self.model);
        }
    }
}

fn run(model: &str, path: &str) -> Result<(), String> {
    let mut scorer = Scorer::load(model)?;
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let mut rows = Vec::new();
    for line in text.lines() {
        let before = rows.len();
        for cell in line.split(',') {
            rows.push(cell.trim().parse::<f32>().map_err(|e| format!("{path}: {cell}: {e}"))?);
        }
        if rows.len() - before != scorer.dims {
            return Err(format!("{path}: expected {} columns", scorer.dims));
        }
    }
    for score in scorer.log_prob(&rows)? {
        println!("{score:e}");
    }
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() != 3 {
        eprintln!("usage: score MODEL ROWS.csv");
        std::process::exit(2);
    }
    if let Err(text) = run(&arguments[1], &arguments[2]) {
        eprintln!("score: {text}");
        std::process::exit(1);
    }
}
