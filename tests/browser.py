"""A headless Chromium, driven over its DevTools pipe: by the tests of the map, and to measure it.

Nothing but the standard library: the browser reads messages from its descriptor 3 and writes answers to 4.
"""

import base64
import itertools
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-sandbox", "--disable-gpu")
# Both pipes are moved out of the way before they are given their numbers.
START = """import os, sys
pipes = [os.dup(os.dup(os.dup(int(number)))) for number in sys.argv[1:3]]
for number, pipe in zip((3, 4), pipes): os.dup2(pipe, number)
os.execvp(sys.argv[3], sys.argv[3:])"""


def find() -> str | None:
    """The program of an installed browser."""
    return next((program for name in NAMES if (program := shutil.which(name))), None)


class Browser:
    """A browser with one page. `messages`: what the page has written to its console, and its errors."""

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        self.home, self.messages, self.numbers, self.buffer = tempfile.TemporaryDirectory(), [], itertools.count(1), b""
        commands, self.write = os.pipe()
        self.read, answers = os.pipe()
        program = [find(), *FLAGS, f"--user-data-dir={self.home.name}", "about:blank"]
        start = [sys.executable, "-c", START, str(commands), str(answers), *program]
        self.process = subprocess.Popen(start, pass_fds=(commands, answers), stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.waiting = selectors.DefaultSelector()
        self.waiting.register(self.read, selectors.EVENT_READ)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def close(self) -> None:
        """End the browser, and remove its files."""
        self.process.kill()
        self.process.wait()
        os.close(self.write)
        os.close(self.read)
        shutil.rmtree(self.home.name, ignore_errors=True)  # its other processes may still write
        self.home.cleanup()

    def call(self, method: str, timeout: float = 60, **values: object) -> dict[str, object]:
        """Call a method of the DevTools protocol."""
        number, end = next(self.numbers), time.monotonic() + timeout
        message = {"id": number, "method": method, "params": values}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            for answer in self._answers(max(0.0, end - time.monotonic())):
                kind, given = answer.get("method"), answer.get("params", {})
                if kind == "Runtime.consoleAPICalled":
                    self.messages.append([argument.get("value") for argument in given["args"]])
                elif kind == "Runtime.exceptionThrown":
                    self.messages.append(given["exceptionDetails"])
                elif kind == "Log.entryAdded":
                    self.messages.append(given["entry"])
                if answer.get("id") == number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    return answer["result"]

    def _answers(self, seconds: float) -> list[dict[str, object]]:
        if not self.waiting.select(seconds):
            raise TimeoutError("the browser does not answer")
        if not (got := os.read(self.read, 1 << 20)):
            raise RuntimeError("the browser has ended")
        *whole, self.buffer = (self.buffer + got).split(b"\0")
        return [json.loads(message) for message in whole]

    def evaluate(self, script: str, timeout: float = 60) -> object:
        """The value of an expression in the page; a promise is awaited."""
        values = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = self.call("Runtime.evaluate", timeout, **values)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def wait_for(self, script: str, timeout: float = 30) -> object:
        """Wait until an expression in the page is true, and return it."""
        end = time.monotonic() + timeout
        while not (value := self.evaluate(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {timeout} s: {script}")
            time.sleep(0.02)
        return value

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a map from its file and wait until it is drawn."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        self.wait_for("document.body && document.body.dataset.ready")

    def resize(self, width: int, height: int, ratio: float = 1, dark: bool = False) -> None:
        """The window's size, the pixels of the screen per pixel of the page, and the colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.call("Emulation.setEmulatedMedia", features=features)

    def mouse(self, kind: str, x: float, y: float, **values: object) -> None:
        """A mouse event: kind is Pressed, Moved, Released or Wheel; the left button is down until it is released."""
        held = {} if kind == "Wheel" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **(held | values))

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point, move it over the others, and release it."""
        self.mouse("Moved", *points[0], button="none")
        self.mouse("Pressed", *points[0])
        for point in points[1:]:
            self.mouse("Moved", *point, buttons=1)
        self.mouse("Released", *points[-1])

    def key(self, key: str, text: str = "") -> None:
        """Press and release a key."""
        codes = {"Escape": 27, "Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        values = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0])), **({"text": text} if text else {})}
        self.call("Input.dispatchKeyEvent", type="keyDown", **values)
        self.call("Input.dispatchKeyEvent", type="keyUp", **values)

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG or JPEG."""
        kind = "jpeg" if path.suffix in (".jpg", ".jpeg") else "png"
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format=kind)["data"]))
