"""ranks.py with two ranks in two network namespaces, whose link is limited, against what the model of cost predicts.

usage (as root, on Linux with ip and tc): python ranks_network.py [--steps 10 --out results/ranks_network.json]

Links: a pair of virtual Ethernet devices with a token bucket (tc) at 10 and 1 Gbit/s, and a relay that holds packets
back for the time of a latency and a rate. TCP costs the ranks' own cores time: what the link gives without a limit is
measured first, and predictions take the smaller bandwidth.
"""

import argparse
import collections
import contextlib
import fcntl
import json
import multiprocessing
import os
import select
import struct
import subprocess
import sys
import time

from machine import describe
from ranks_model import LITTLE, all_reduce_seconds, waiting

SPACES, DEVICE = ("evenflow0", "evenflow1"), "eth0"
TCP = {"MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": DEVICE,
       "OMP_WAIT_POLICY": "passive"}
"""MPICH's settings: no shared memory, and sockets on the link alone."""
LINKS = [("no limit", None, 0.0), ("10 Gbit/s", 10e9, 0.0), ("1 Gbit/s", 1e9, 0.0),
         ("1 Gbit/s, 1 ms", 1e9, 1e-3)]
"""Name, bits a second, added seconds one way."""
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454ca, 0x0001, 0x1000  # <linux/if_tun.h>
PACKET = 65535


def ip(*words):
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def link(rate, latency):
    """Two namespaces with one network between them."""
    for space in SPACES:
        subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL)
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
    relay = None
    if latency:
        ends = [tunnel(f"evenflow_tun{i}") for i in range(2)]
        for i, space in enumerate(SPACES):
            ip("link", "set", f"evenflow_tun{i}", "netns", space)
            ip("-n", space, "link", "set", f"evenflow_tun{i}", "name", DEVICE, "mtu", str(PACKET))
        relay = multiprocessing.Process(target=hold_back, args=(ends, rate / 8, latency), daemon=True)
        relay.start()
    else:
        ip("link", "add", DEVICE, "netns", SPACES[0], "type", "veth", "peer", "name", DEVICE, "netns", SPACES[1])
    try:
        for i, space in enumerate(SPACES):
            ip("-n", space, "addr", "add", f"10.77.0.{i + 1}/24", "dev", DEVICE)
            ip("-n", space, "link", "set", DEVICE, "up")
            if rate and not latency:
                subprocess.run(["tc", "-n", space, "qdisc", "add", "dev", DEVICE, "root", "tbf", "rate",
                                f"{rate:.0f}", "burst", "1mb", "limit", "16mb"], check=True)
        time.sleep(2)  # until both ends are seen to be up
        yield
    finally:
        if relay is not None:
            relay.terminate()
        for space in SPACES:
            ip("netns", "del", space)


def tunnel(name):
    """The program's end of a network device that hands over packets."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return end


def hold_back(ends, bytes_a_second, latency):
    """Carries packets between two tunnels for ever."""
    ways = [(ends[0], ends[1], collections.deque()), (ends[1], ends[0], collections.deque())]
    free = [0.0, 0.0]  # when the link has sent what it was given, each way
    while True:
        due = min((queue[0][0] for _, _, queue in ways if queue), default=time.monotonic() + 1)
        ready, _, _ = select.select(ends, [], [], max(0.0, due - time.monotonic()))
        now = time.monotonic()
        for i, (source, target, queue) in enumerate(ways):
            if source in ready:
                packet = os.read(source, PACKET)
                free[i] = max(free[i], now) + len(packet) / bytes_a_second
                queue.append((free[i] + latency, packet))
            while queue and queue[0][0] <= now:
                with contextlib.suppress(OSError):  # a device that is full, or not up, drops it as networks do
                    os.write(target, queue[0][1])
                queue.popleft()


def measure(steps, *more):
    """What ranks.py says of two ranks, one in each namespace."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ranks.py")
    inside = f'exec ip netns exec {SPACES[0][:-1]}"$PMI_RANK" "$@"'
    command = ["mpiexec", "-n", "2", "sh", "-c", inside, "sh", sys.executable, script, "--steps", str(steps), *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **TCP})
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out")
    a = parser.parse_args()
    rows, free = [], None
    for name, rate, latency in LINKS:
        with link(rate, latency):
            for wire in (None, "bfloat16"):
                got = measure(a.steps, *(["--wire", wire] if wire else []))
                free = free or got
                size = got["gradient_mb"] * 1e6
                bandwidth = min(free["bandwidth_gbs"] * 1e9, rate / 8 if rate else float("inf"))
                alpha = free["alpha_us"] * 1e-6 + latency
                left = waiting(2, (got["step_ms"] - got["not_hidden_ms"]) / 1e3, size / (2 if wire else 1),
                               got["last_part"], alpha, bandwidth, LITTLE)
                rows.append({"link": name, "wire": wire or "float32",
                             **{k: got[k] for k in ("step_ms", "waited_ms", "not_hidden_ms")},
                             "not_hidden_share": got["not_hidden_ms"] / got["step_ms"],
                             "not_hidden_predicted_ms": 1e3 * left, "all_reduce_ms": got["all_reduce_ms"],
                             "all_reduce_predicted_ms": 1e3 * all_reduce_seconds(2, size, alpha, bandwidth)})
                print(rows[-1], flush=True)
    if a.out:
        with open(a.out, "w") as file:
            json.dump({"machine": describe(), "free": free, "links": rows}, file, indent=1)


if __name__ == "__main__":
    main()
