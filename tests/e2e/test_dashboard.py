#!/usr/bin/env python3
"""The page at METRICS_LISTEN in a real browser: it draws what the server does, at the sizes of a desk and a pocket, by
day and by night, and asks nobody else for anything. Ends with 77 where there is no Chromium.

    E2E_PICTURES=DIR    keep the pictures there, to be looked at
"""

import os
import sys
import threading
from pathlib import Path

import browser
import grpc
import varved
from varve.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc

SKIPPED = 77
SCREENS = {"desk": (1280, 900, False), "desk_dark": (1280, 900, True), "phone": (390, 844, False), "phone_dark": (390, 844, True)}


class Load:
    """Calls until it ends."""

    def __init__(self, address):
        self._over = threading.Event()
        self._address = address
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with grpc.insecure_channel(self._address) as channel:
            kv = kv_pb2_grpc.KVStub(channel)
            i = 0
            while not self._over.is_set():
                i += 1
                kv.Put(kv_pb2.PutRequest(key=b"k%06d" % (i % 5000), value=os.urandom(500)), timeout=60)
                kv.Get(kv_pb2.GetRequest(key=b"k%06d" % (i * 7 % 5000)), timeout=60)
                if i % 200 == 0:
                    admin_pb2_grpc.AdminStub(channel).Flush(admin_pb2.FlushRequest(), timeout=60)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def brightness(page, what):
    """0 to 255."""
    return page.ask(f"getComputedStyle(document.querySelector({what!r})).backgroundColor.match(/\\d+/g).slice(0, 3)"
                    ".reduce((sum, c) => sum + Number(c), 0) / 3")


def main():
    program = browser.find()
    if not program:
        print("SKIPPED, LOUDLY: there is no Chromium here")
        sys.exit(SKIPPED)
    work = varved.work_dir("dashboard")
    pictures = Path(os.environ.get("E2E_PICTURES", work))
    pictures.mkdir(parents=True, exist_ok=True)
    with varved.Varved(work / "data", "--metrics-listen", "127.0.0.1:0", wait=False) as server:
        server.await_ready(2)
        watch = server.addresses[1]
        with browser.Page(program, work / "profile") as page:
            with Load(server.address):
                page.look(*SCREENS["desk"])
                page.open(f"http://{watch}/")
                text = lambda where: page.ask(f"document.querySelector({where!r})?.textContent || ''")
                varved.until(lambda: text("#state") == "serving", "the page says that it serves")
                varved.until(lambda: text("#calls") not in ("", "–", "0") and "KV.Get" in text("#methods") and
                             "KV.Put" in text("#methods"), "it shows calls")
                varved.until(lambda: "run" in text("#levels"), "and sorted runs")
                varved.until(lambda: all(page.ask(f"document.querySelector('#{chart} path')?.getTotalLength() || 0") > 20
                                         for chart in ("throughput", "latency")), "and curves")
                assert text("#readp99") != "–" and text("#writep99") != "–"
                for what in ("#wal", "#cache", "#kinds", "#merge"):
                    assert text(what), what
                light = {}
                for name, (width, height, dark) in SCREENS.items():
                    page.look(width, height, dark)
                    looks = page.ask("new Promise(done => setTimeout(() => done(seen.length), 1500))")
                    assert looks >= 2
                    wide = page.ask("[document.documentElement.scrollWidth, innerWidth]")
                    assert wide[0] <= wide[1], f"{name}: {wide[0]} wide on a screen of {wide[1]}"
                    light[name] = brightness(page, ".card")
                    page.picture(pictures / f"{name}.png")
                assert light["desk"] > 200 > 80 > light["desk_dark"], light
                assert light["phone"] > 200 > 80 > light["phone_dark"], light
            asked = {url.split("?")[0] for url in page.requests}
            assert asked <= {f"http://{watch}/", f"http://{watch}/dashboard.json"}, asked
            assert not page.complaints, page.complaints
            assert server.stop() == 0
            varved.until(lambda: page.ask("getComputedStyle(document.querySelector('#lost')).display") == "block",
                         "it says that there is no answer")


if __name__ == "__main__":
    main()
