"""metrics.python: a plugin of capstan in Python, over nothing but the schemas.

    metrics_plugin.py                      the daemon started it ([load] command)
    metrics_plugin.py --listen SOCKET      the daemon connects to it ([load] socket)

Either way an instance is two sockets: a stream for Cap'n Proto, and one for descriptors, which this plugin has no
use for. What is said over the stream is in schema/capnp/plugin.capnp. It needs pycapnp 2.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import tomllib
from pathlib import Path

import capnp

ID = "metrics.python"
REQUIRES = ["metrics.process?"]
DEFAULTS = {"prefix": "capstan_python"}
# What it asks the daemon for on top, to show that it does not get it.
FORBIDDEN = ["transfer", "content", "snapshotter"]

checkout = Path(__file__).resolve().parents[3]
parser = argparse.ArgumentParser(description="the plugin metrics.python")
parser.add_argument("--listen", metavar="SOCKET", help="wait there for the daemon")
parser.add_argument("--schemas", type=Path, default=checkout / "schema/capnp", metavar="DIRECTORY")
arguments = parser.parse_args()
plugin_capnp = capnp.load(str(arguments.schemas / "plugin.capnp"))
metrics_capnp = capnp.load(str(arguments.schemas / "metrics.capnp"))


def complete(section):
    """The section with the defaults filled in. ValueError, with the path of what is wrong."""
    try:
        section = tomllib.loads(section)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f'[plugins."{ID}"]: {error}') from None
    for key in section.keys() - DEFAULTS.keys():
        raise ValueError(f'[plugins."{ID}"]: unknown key {key!r}; there is {", ".join(DEFAULTS)}')
    section = DEFAULTS | section
    prefix = section["prefix"]
    if not isinstance(prefix, str) or not re.fullmatch("[a-z_][a-z0-9_]*", prefix):
        raise ValueError(f'[plugins."{ID}"].prefix: {prefix!r} does not begin the name of a metric')
    return section


class Metrics(metrics_capnp.Metrics.Server):
    def __init__(self, instance):
        self.instance = instance

    async def collect(self, _context):
        _context.results.samples = await self.instance.measure()


class Services(plugin_capnp.Services.Server):
    def __init__(self, instance):
        self.metrics = metrics_capnp.Metrics._new_client(Metrics(instance))

    async def open(self, namespace, _context):
        _context.results.service = self.metrics


class Plugin(plugin_capnp.Plugin.Server):
    """One instance, at the other end of one stream."""

    host = None

    async def describe(self, _context):
        _context.results.manifest = {
            "id": ID,
            "version": "1.0.0",
            "about": "load average of the machine, and what this plugin takes itself",
            "requires": REQUIRES,
            "builtWith": f"pycapnp {capnp.__version__}",
        }

    async def complete(self, section, _context):
        try:
            completed = complete(section)
        except ValueError as error:
            _context.results.error = {"class": "invalidArgument", "message": str(error)}
            return
        # A quoted text of letters is the same in JSON and TOML.
        lines = (f"{key} = {json.dumps(value)}\n" for key, value in completed.items())
        _context.results.section = "".join(lines)

    async def start(self, host, section, state, log, _context):
        if self.host:
            _context.results.error = {"class": "failedPrecondition", "message": "started before"}
            return
        self.host = host
        self.prefix = tomllib.loads(section)["prefix"]
        self.collections = json.loads(state)["collections"] if state else 0
        self.neighbour = await self.link("metrics.process")
        refused = {target: await self.link(target) for target in FORBIDDEN}
        answers = ", ".join(f"{target}: {answer}" for target, answer in refused.items())
        await self.log("info", f"started in process {os.getpid()}, not given {answers}")
        _context.results.services = Services(self)
        _context.results.provides = ["metrics"]

    async def health(self, _context):
        pass

    async def drain(self, _context):
        _context.results.state = json.dumps({"collections": self.collections}).encode()

    async def link(self, target):
        """What the daemon gives for a plugin: its services, or the class of the error as text."""
        answer = await self.host.link(target)
        return str(getattr(answer.error, "class")) if answer._has("error") else answer.services

    async def log(self, level, text):
        await self.host.log([{"level": level, "target": "metrics_plugin", "text": text}], 0)

    async def measure(self):
        self.collections += 1
        load = os.getloadavg()[0]
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        measured = [
            ("load1", "gauge", "Processes that run or want to, averaged over a minute.", load),
            ("resident_bytes", "gauge", "Memory of this plugin's process.", resident),
            ("collections_total", "counter", "How often it was asked.", self.collections),
        ]
        if not isinstance(self.neighbour, str):
            service = (await self.neighbour.open("")).service.as_interface(metrics_capnp.Metrics)
            found = (await service.collect()).samples
            measured.append(("neighbour_samples", "gauge", "Samples of metrics.process.", len(found)))
        return [
            {"name": f"{self.prefix}_{name}", "kind": kind, "help": help, "value": float(value)}
            for name, kind, help, value in measured
        ]


async def serve(numbers):
    """One instance, until the daemon closes its stream."""
    stream, descriptors = (socket.socket(fileno=number) for number in numbers)
    with stream, descriptors:
        stream = await capnp.AsyncIoStream.create_connection(sock=stream)
        await capnp.TwoPartyServer(stream, bootstrap=Plugin()).on_disconnect()


async def receive(connection):
    """The daemon makes a connection for each instance, and sends one byte with the two sockets."""
    with connection:
        _, numbers, _, _ = await asyncio.to_thread(socket.recv_fds, connection, 1, 2)
    await serve(numbers)


async def listen(path):
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.setblocking(False)
    instances = set()
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        connection.setblocking(True)
        instance = asyncio.create_task(receive(connection))
        instances.add(instance)
        instance.add_done_callback(instances.discard)


async def main():
    if arguments.listen:
        await listen(arguments.listen)
    else:
        await serve([int(number) for number in os.environ["CAPSTAN_PLUGIN"].split(",")])


asyncio.run(capnp.run(main()))
