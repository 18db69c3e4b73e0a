"""One training, by as many ranks as it is started with; rank 0 prints what came out as JSON.

usage: mpiexec -n N python ranks_job.py '{"model": "glow", "steps": 100, ...}'
"""

import json
import sys
import zlib

import numpy as np
from fits import fit
from mpi4py import MPI

import evenflow as ef

MODELS = {
    "nice": lambda shape, **o: ef.NICE(shape, couplings=4, hidden=(20, 20), **o),
    "realnvp": lambda shape, **o: ef.RealNVP(shape, levels=2, base_dim=4, residual_blocks=1, **o),
    "table": lambda shape, **o: ef.CouplingFlow(3, couplings=4, hidden=(16, 16), batch_norm=True, **o),
    "wide": lambda shape, **o: ef.Glow(shape, levels=2, steps=2, hidden=96, bits=4, **o),
    "glow": lambda shape, **o: ef.Glow(shape, levels=2, steps=2, hidden=16, bits=4, **o),
}


def main() -> None:
    comm = MPI.COMM_WORLD
    job = json.loads(sys.argv[1])
    flow = MODELS[job["model"]]((8, 8, 1), dtype=job.get("dtype", "float64"), seed=0, threads=1,
                               device=job.get("device", "cpu"))
    if job["model"] == "table":
        rng = np.random.default_rng(0)
        x = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 3))
        data, valid = x[:208], x[208:]
    else:
        digits = ef.data.load("digits")
        data, valid = digits.train[:208].astype(np.uint8), digits.test[:50]
    settings = {"batch_size": 50, "optimizer": "adamax", "lr": 1e-3, "clip": 10.0, "seed": 0, "average": 0.0, **job.get("settings", {})}
    if comm.Get_rank() == job.get("odd_rank"):
        settings.update(job["odd_settings"])
    weights = {}
    if job.get("weighted"):
        rng = np.random.default_rng(1)
        weights = {"sample_weight": rng.uniform(0, 3, len(data))}
        valid = {"x": valid, "sample_weight": rng.uniform(0, 3, len(valid))}
    losses = []

    def watch(record: dict) -> None:
        if record["event"] == "step":
            losses.append(record["loss"])

    history = fit(flow, data, valid, steps=job["steps"], callback=watch, checkpoint=job.get("checkpoint"),
                  resume=job.get("resume", False), comm=comm, warmup=0, **weights, **settings)
    marks = comm.allgather(zlib.crc32(flow.params.tobytes()))
    if comm.Get_rank() == 0:
        print(json.dumps({"losses": losses, "valid": [r.get("valid_loss", 0.0) for r in history],
                          "epochs": [r["loss"] for r in history],
                          "same": len(set(marks)) == 1, "params": flow.params[:1000].tolist()}))


try:
    main()
except ef.Error as error:
    if not getattr(error, "told_elsewhere", False):
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
