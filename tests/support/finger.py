"""`python -m tests.support.finger PID`: presses Ctrl-C on a process as soon as it is itself asked to stop."""

import os
import signal
import sys
import threading

if __name__ == "__main__":
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    print("ready", flush=True)
    asked.wait(60)
    os.kill(int(sys.argv[1]), signal.SIGINT)
