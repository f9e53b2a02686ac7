"""`python -m tests.support.child [deaf|dies|silent]`: a small process for tests of the local stack."""

import json
import signal
import sys
import threading

if __name__ == "__main__":
    way = sys.argv[1] if len(sys.argv) > 1 else ""
    if way == "dies":
        print("everstill: port 1 is taken", file=sys.stderr)
        raise SystemExit(4)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if way == "deaf" else lambda *_: ended.set())
    if way != "silent":
        print(json.dumps({"event": "started", "address": "127.0.0.1:1"}), flush=True)
    ended.wait(120)
    print("ended well", file=sys.stderr)
