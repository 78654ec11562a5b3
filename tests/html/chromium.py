"""A headless Chromium over its DevTools protocol: open a page, run a script, hear what it asks."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --disable-component-update --disable-default-apps "
    "--disable-extensions --disable-sync --hide-scrollbars --remote-allow-origins=* "
    "--remote-debugging-port=0"
).split()
PATIENCE = 60.0  # seconds, on a machine that is busy


def find():
    """The path of a browser, or None."""
    return next(filter(None, map(shutil.which, (os.environ.get("BROWSER", ""), *NAMES))), None)


class Chromium:
    """A browser of its own, with an empty profile."""

    def __init__(self, program):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self.folder.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.port = self._port()

    def _port(self):
        path, end = Path(self.folder.name) / "DevToolsActivePort", time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if path.exists() and (lines := path.read_text().splitlines()):
                return int(lines[0])
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError("Chromium did not start")

    @contextlib.contextmanager
    def open(self, address, width=1280, height=900, scheme="light"):
        """A loaded page in a new tab; its maths is set."""
        base = f"http://127.0.0.1:{self.port}/json"
        new = urllib.request.Request(f"{base}/new?about:blank", method="PUT")
        with urllib.request.urlopen(new, timeout=PATIENCE) as answer:
            target = json.load(answer)
        socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=PATIENCE)
        try:
            page = Page(socket)
            page.view(width, height, scheme)
            page.load(address)
            yield page
        finally:
            socket.close()
            urllib.request.urlopen(f"{base}/close/{target['id']}", timeout=PATIENCE).close()

    def close(self):
        """End the browser that this object started."""
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)
        self.folder.cleanup()


class Page:
    """One tab.

    ``requests`` holds every address that it asked for, ``errors`` every exception, console error
    and failed request.
    """

    def __init__(self, socket):
        self.socket, self.numbers = socket, itertools.count(1)
        self.requests, self.errors, self.loaded = [], [], False
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Send one command and wait for its answer, keeping the events on the way."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (message := self._receive()).get("id") != number:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def _receive(self):
        message = json.loads(self.socket.recv())
        self._hear(message.get("method"), message.get("params", {}))
        return message

    def _hear(self, event, params):
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Network.loadingFailed" and not params.get("canceled"):
            self.errors.append(f"request failed: {params['errorText']}")
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description", str(details)))
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(arg.get("value", arg)) for arg in params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def view(self, width, height, scheme):
        """Set the window's size (a phone below 600 pixels) and the reader's colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def load(self, address):
        """Load a page, and wait until its maths is set and its scripts are quiet."""
        self.loaded = False
        self.call("Page.navigate", url=address)
        while not self.loaded:
            self._receive()
        self.run("(async () => { await window.MathJax?.startup?.promise; })()")
        self.run("document.fonts.ready.then(() => new Promise(done => setTimeout(done, 100)))")

    def run(self, script):
        """The value of a script, of a promise once it is kept."""
        options = {"awaitPromise": True, "returnByValue": True}
        try:
            answer = self.call("Runtime.evaluate", expression=script, **options)
        except RuntimeError:  # the page was leading on to another one: ask that
            time.sleep(0.5)
            answer = self.call("Runtime.evaluate", expression=script, **options)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def picture(self, path, full=True):
        """Write a screenshot."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=full)
        Path(path).write_bytes(base64.b64decode(answer["data"]))
