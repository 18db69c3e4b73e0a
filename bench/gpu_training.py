"""A Glow trained for some minutes by evenflow or by torch on a GPU: same model, start, batches, flips and noise.

usage: python gpu_training.py evenflow|torch photos32.npz --out FOLDER [--minutes 20 --resume]
The file has uint8 images `train` and `test` (N, H, W, 3). After every minute of training, and at the end, the clock
stands while FOLDER gets training_<library>.npz, a checkpoint; .png, samples; and .json: how it was trained, the curve,
bits a dimension of held-out images. evenflow scores and samples the parameters of both, its own with bfloat16
nets, torch's in float32. --resume goes on from the checkpoint, so that the minutes may be made of several commands. An
error is written with the results, and is the exit status.
"""

import argparse
import json
import math
import os
import sys
import time

import numpy as np

import evenflow as ef
import report
from evenflow import plot
from evenflow.rows import data_mark
from machine import describe, gpu_name
from worker import reason

clock = time.perf_counter


class OurTraining:
    """Parameters and optimiser on the device: a step, and the state between two."""

    def __init__(self, a, images):
        self.flow = new_flow(a, images, conditioner_dtype="bfloat16")
        self.flow.init(images[:256])
        self.optimizer = ef.Adam(self.flow, lr=a.lr)
        self.how = {"model": "evenflow", "precision": "float32, coupling nets bfloat16",
                    "matmul_precision": ef.matmul_precision(), "mode": "compiled", "optimizer": "Adam",
                    "versions": {"evenflow": ef.__version__}}

    def step(self, x, seed: int, rate: float) -> float:
        """Nats of the batch, before the step."""
        self.optimizer.lr = rate
        return self.flow.train_step(x, self.optimizer, seed=seed)

    def trained(self) -> ef.Flow:
        """With the present parameters, to look at."""
        return self.flow

    def state(self) -> dict:
        """Arrays by name; all else is the number of steps."""
        return {"values": self.flow._core.values,
                **{f"moment{i}": moment for i, moment in enumerate(self.optimizer.moments())}}

    def restore(self, arrays, steps: int) -> None:
        for name, array in self.state().items():
            array[:] = arrays[name]
        self.optimizer.steps = steps


class TorchTraining:
    """The same in torch.

    The model is the tests' oracle. That of peers_torch.py is faster, but another one: its nets have no scales and no
    edge channel, its top prior does not learn.
    """

    def __init__(self, a, images):
        import torch
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "python"))
        import oracle
        self.torch, self.loss = torch, oracle.glow.loss
        torch.set_default_device(a.device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        self.flow = new_flow(a, images)
        self.flow._core.values[:] = OurTraining(a, images).flow._core.values
        trained = self.flow.named_grads()
        self.params = {name: torch.tensor(v).requires_grad_(name in trained)
                       for name, v in self.flow.named_parameters().items()}
        self.adam = torch.optim.Adam([self.params[name] for name in trained], lr=a.lr, fused=True)
        self.how = {"model": "the tests' oracle; bench's faster peer is another model",
                    "precision": "float32, products as TF32" if a.device == "cuda" else "float32",
                    "matmul_precision": torch.get_float32_matmul_precision(), "mode": "eager",
                    "optimizer": "Adam, fused",
                    "versions": {"torch": torch.__version__, "cuda": torch.version.cuda,
                                 "cudnn": torch.backends.cudnn.version(), "evenflow": ef.__version__}}

    def step(self, x, seed, rate):
        levels = self.torch.tensor(self.flow._block("training", x, 0, len(x), seed))
        loss = self.loss(self.params, levels, self.flow.config)[0]
        self.adam.zero_grad()
        loss.backward()
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        nats = loss.item()
        if not math.isfinite(nats):  # as evenflow's steps do
            raise ef.NumericError(f"[torch] expected a finite loss, got {nats} in step {seed}")
        return nats

    def trained(self):
        for name, v in self.flow.named_parameters().items():
            v[...] = self.params[name].detach().cpu().numpy()
        return self.flow

    def state(self):
        arrays = {f"value {name}": v for name, v in self.params.items()}
        arrays.update({f"{kind} {name}": self.adam.state[v][kind] for name, v in self.params.items()
                       if v.requires_grad for kind in ("exp_avg", "exp_avg_sq")})
        return {name: array.detach().cpu().numpy() for name, array in arrays.items()}

    def restore(self, arrays, steps):
        for name, v in self.params.items():
            v.data.copy_(self.torch.tensor(arrays[f"value {name}"]))
            if v.requires_grad:
                self.adam.state[v] = {"step": self.torch.tensor(float(steps)), **{
                    kind: self.torch.tensor(arrays[f"{kind} {name}"]) for kind in ("exp_avg", "exp_avg_sq")}}


LIBRARIES = {"evenflow": OurTraining, "torch": TorchTraining}


def new_flow(a, images, **options):
    return ef.Glow(images.shape[1:], levels=3, steps=a.steps, hidden=a.hidden, seed=0, device=a.device, **options)


def batch(images, size: int, step: int):
    """Of a step: every epoch in a new order, half of the images flipped. It depends on the step alone."""
    epoch, place = divmod(step, len(images) // size)
    order = np.random.default_rng((0, epoch)).permutation(len(images))
    x = images[np.sort(order[place * size:(place + 1) * size])]
    flipped = np.random.default_rng((1, step)).random(size) < 0.5
    x[flipped] = x[flipped, :, ::-1]
    return x


class Run:
    """A training, what is known of it, and its files."""

    def __init__(self, a):
        with np.load(a.data) as images:
            self.train, self.test = images["train"], images["test"][:a.held_out]
        if len(self.train) < a.batch:
            raise ef.ConfigError(f"[training] expected {a.batch} images or more to train on, got {len(self.train)}")
        self.a, self.path = a, os.path.join(a.out, f"training_{a.library}")
        self.curve, self.looks, self.resumed = [], [], []
        self.settings = {"batch": a.batch, "steps_a_level": a.steps, "hidden": a.hidden, "lr": a.lr,
                         "warmup_steps": a.warmup, "augmentation": "horizontal flips",
                         "data": data_mark(np.float32, self.train, None, self.test, None),
                         "gpu": gpu_name() if a.device == "cuda" else None}
        self.arrays = self.read() if os.path.exists(self.path + ".npz") else None

    def read(self):
        """The checkpoint's arrays. ConfigError: it is not to go on, or of a training with other settings."""
        file = self.path + ".npz"
        if not self.a.resume:
            raise ef.ConfigError(f"[training] expected no {file}, got one; --resume goes on from it")
        with np.load(file) as stored:
            arrays = dict(stored)
        told = json.loads(str(arrays["told"]))
        for name, value in self.settings.items():
            if told["settings"].get(name) != value:
                raise ef.ConfigError(f"[training] expected {name} = {told['settings'].get(name)} as in {file}, "
                                     f"got {value}")
        self.curve, self.looks = arrays["curve"].tolist(), told["looks"]
        self.resumed = [*told["resumed_at_step"], len(self.curve)]
        return arrays

    def go(self) -> str | None:
        """Trains, from the checkpoint if there is one. What went wrong, in training or when last looked at it."""
        error, how = None, None
        try:
            training = LIBRARIES[self.a.library](self.a, self.train)
            how = training.how
            if self.arrays is not None:
                training.restore(self.arrays, len(self.curve))
                self.arrays = None
            self.write(how)
            self.steps(training)
        except (ef.Error, RuntimeError) as failure:  # torch's are RuntimeErrors
            error = reason(failure)
            self.write(how, error)
        return error or (self.looks[-1].get("error") if self.looks else None)

    def steps(self, training) -> None:
        seconds = self.curve[-1][0] if self.curve else 0.0
        while seconds < 60 * self.a.minutes:
            step, minute = len(self.curve), seconds // 60
            begin = clock()
            rate = self.a.lr * min(1.0, (step + 1) / max(1, self.a.warmup))
            nats = training.step(batch(self.train, self.a.batch, step), step, rate)
            seconds += clock() - begin
            self.curve.append([seconds, nats / (math.log(2) * self.train[0].size)])
            if seconds // 60 > minute or seconds >= 60 * self.a.minutes:
                self.look(training.trained())
                self.save(training)
                self.write(training.how)
                print(self.a.library, self.looks[-1], flush=True)

    def look(self, flow) -> None:
        """At held-out images, and samples. An error there may be gone a minute later: the training goes on."""
        look = {"seconds": self.curve[-1][0], "steps": len(self.curve)}
        try:
            bits = flow.bits_per_dim(self.test, seed=0)
            look["bits_per_dim"] = float(bits.mean())
            look["standard_error"] = float(bits.std() / len(bits) ** 0.5)
            plot.save_grid(ef.to_uint8(flow.sample(64, temperature=0.7, seed=0)), self.path + ".png")
        except ef.Error as error:
            look["error"] = reason(error)
        self.looks.append(look)

    def save(self, training) -> None:
        told = {"settings": self.settings, "looks": self.looks, "resumed_at_step": self.resumed}
        part = self.path + ".npz.part"
        with open(part, "wb") as file:
            np.savez(file, told=json.dumps(told), curve=self.curve, **training.state())
        os.replace(part, self.path + ".npz")

    def write(self, how: dict | None, error: str | None = None) -> None:
        """The results so far."""
        scored = [look for look in self.looks if "bits_per_dim" in look]
        held_out = {"best": min(scored, key=lambda look: look["bits_per_dim"]) if scored else None,
                    "last": self.looks[-1] if self.looks else None, "all": self.looks}
        curve = self.curve[::max(1, len(self.curve) // 200)]
        report.write(self.a.out, os.path.basename(self.path), {
            "library": self.a.library, "machine": describe(), "date": time.strftime("%Y-%m-%d"), "how": how,
            "settings": self.settings, "minutes": self.a.minutes, "steps": len(self.curve),
            "seconds": self.curve[-1][0] if self.curve else 0.0, "resumed_at_step": self.resumed,
            **({"error": error} if error else {}), "held_out": held_out, "curve": curve}, digits=6)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("data")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--resume", action="store_true", help="from the checkpoint, if there is one")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, those before --resume included")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=32, help="K, of the model")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--held-out", type=int, default=1000, help="images")
    return parser.parse_args()


def main():
    a = arguments()
    plot.writer(3)  # what lacks is to be found missing before the minutes are spent
    os.makedirs(a.out, exist_ok=True)
    try:
        run = Run(a)
    except ef.Error as error:  # what is there stays as it is
        sys.exit(str(error))
    sys.exit(run.go() is not None)


if __name__ == "__main__":
    main()
