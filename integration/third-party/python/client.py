"""A client of capstan in Python: `client.py ADDRESS` prints JSON, one line for each thing that it is told.

    {"plugin": {"id": ..., "state": ..., "source": ...}}     all plugins
    {"sample": {"name": ..., "kind": ..., "value": ...}}     what metrics.python measures
    {"error": {"class": ..., "message": ...}}                a service that there is not
"""

import argparse
import asyncio
import json
from pathlib import Path

import capnp

checkout = Path(__file__).resolve().parents[3]
parser = argparse.ArgumentParser(description="a client of capstan")
parser.add_argument("address", help="unix:///PATH of the daemon's socket")
parser.add_argument("--schemas", type=Path, default=checkout / "schema/capnp", metavar="DIRECTORY")
arguments = parser.parse_args()
introspection_capnp = capnp.load(str(arguments.schemas / "introspection.capnp"))
metrics_capnp = capnp.load(str(arguments.schemas / "metrics.capnp"))
root_capnp = capnp.load(str(arguments.schemas / "root.capnp"))


def say(kind, value):
    print(json.dumps({kind: value}))


def pick(struct, *names):
    return {name: value for name, value in struct.to_dict().items() if name in names}


async def main():
    path = arguments.address.removeprefix("unix://")
    stream = await capnp.AsyncIoStream.create_unix_connection(path)
    root = capnp.TwoPartyClient(stream).bootstrap().cast_as(root_capnp.Root)

    # A call on a service that is not opened yet is beyond pycapnp: it knows no type for it.
    answer = await root.open("introspection", "")
    introspection = answer.service.as_interface(introspection_capnp.Introspection)
    for plugin in (await introspection.plugins()).plugins:
        say("plugin", pick(plugin, "id", "state", "source", "requires", "rights"))

    answer = await root.open("metrics.python", "")
    metrics = answer.service.as_interface(metrics_capnp.Metrics)
    for sample in (await metrics.collect()).samples:
        say("sample", pick(sample, "name", "kind", "value"))

    answer = await root.open("nobody.here", "")
    say("error", pick(answer.error, "class", "message"))


asyncio.run(capnp.run(main()))
