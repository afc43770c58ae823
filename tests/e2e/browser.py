"""Headless Chromium, spoken to over a pipe (the DevTools protocol): a page, what it asks for, and a picture of it."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

import varved

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find():
    """Where it is; None: nowhere."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page. Use as a context manager."""

    def __init__(self, program, profile):
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # Chromium reads descriptor 3 and writes 4. A shell puts them there: no code of ours runs in a forked child.
        command = ["sh", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "sh", program, "--headless=new", "--no-sandbox",
                   "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
                   "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen([*varved.WITH_PARENT, *command], pass_fds=(to_browser, from_browser),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self._bytes, self._id, self._session = b"", 0, None
        self.requests, self.complaints = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _next(self, seconds):
        end = time.monotonic() + seconds
        while b"\0" not in self._bytes:
            if not select.select([self._in], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"Chromium has said nothing for {seconds} s")
            more = os.read(self._in, 1 << 20)
            if not more:
                raise AssertionError(f"Chromium has ended with {self.process.wait(timeout=60)}")
            self._bytes += more
        message, self._bytes = self._bytes.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event):
        kind, p = event.get("method"), event.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.requests.append(p["request"]["url"])
        elif kind == "Runtime.exceptionThrown":
            self.complaints.append(p["exceptionDetails"].get("exception", {}).get("description", p["exceptionDetails"]["text"]))
        elif kind == "Log.entryAdded" and p["entry"]["level"] == "error":
            self.complaints.append(p["entry"]["text"])

    def call(self, method, **params):
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(120)
            if answer.get("id") != self._id:
                self._note(answer)
                continue
            if "error" in answer:
                raise AssertionError(f"{method}: {answer['error']}")
            return answer["result"]

    def look(self, width, height, dark=False):
        """As on a screen of this size, which may be set to dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, url):
        self.call("Page.navigate", url=url)

    def ask(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self, path):
        """The whole page, as far down as it goes."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._out)  # it ends when nobody speaks to it
        os.close(self._in)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
