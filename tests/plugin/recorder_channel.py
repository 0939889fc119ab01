"""The channel of these tests: writes lines for each delivery, breaks as its records ask for."""

import asyncio
import ctypes
import json
import os
import signal
import time

from pydantic import BaseModel

from kinto_dispatch import Delivered, Rejected, Retry, hookimpl


class Settings(BaseModel):
    path: str
    seconds: float = 0.0


class RecorderChannel:
    Settings = Settings

    def __init__(self, settings):
        self.settings = settings

    @hookimpl
    async def on_event_async(self, event, channel, delivery):
        write(self.settings.path, "begun", event, delivery)
        for change in event.changes:
            outcome = await DO[(change.new or {}).get("do", "deliver")]()
            if outcome is not None:
                return outcome
        await asyncio.sleep(self.settings.seconds)
        write(self.settings.path, "done", event, delivery)
        return Delivered()

    @hookimpl
    def on_event(self, event, channel):
        write(self.settings.path, "done", event)


class PlainChannel(RecorderChannel):
    """The same in a thread."""

    @hookimpl
    def on_event_async(self, event, channel, delivery):
        write(self.settings.path, "begun", event, delivery)
        for change in event.changes:
            if (change.new or {}).get("do") == "sleep":
                time.sleep(10_000)
        time.sleep(self.settings.seconds)
        write(self.settings.path, "done", event, delivery)


def write(path, what, event, delivery=None):
    """One line, in one call, so that lines of many processes never mix."""
    line = {
        "what": what,
        "key": delivery and delivery.key,
        "attempt": delivery and delivery.attempt,
        "ids": [change.object_id for change in event.changes],
        "pid": os.getpid(),
        "at": time.time(),
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


async def deliver():
    return None


async def retry():
    return Retry("not now")


async def reject():
    return Rejected("never")


async def exit_process():
    os._exit(3)


async def segfault():
    ctypes.string_at(0)


async def kill_process():
    os.kill(os.getpid(), signal.SIGKILL)


async def sleep():
    await asyncio.sleep(10_000)


async def swallow():
    while True:
        try:
            await asyncio.sleep(10_000)
        except asyncio.CancelledError:
            continue


async def spin():
    while True:
        pass


DO = {
    "deliver": deliver,
    "retry": retry,
    "reject": reject,
    "exit": exit_process,
    "segfault": segfault,
    "kill": kill_process,
    "sleep": sleep,
    "swallow": swallow,
    "spin": spin,
}
