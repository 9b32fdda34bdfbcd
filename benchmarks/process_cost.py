"""Run a command and print what it cost, as JSON: seconds, CPU seconds, peak MiB.

A process of its own that imports little: the peak of a child counts from that of the process that starts it. Linux.
"""

import json
import resource
import subprocess
import sys
import time


def main(command: list[str]) -> None:
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr.decode())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))


if __name__ == "__main__":
    main(sys.argv[1:])
