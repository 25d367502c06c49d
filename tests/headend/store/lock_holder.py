"""Run by test_lock: holds a store until its standard input ends."""

import sys

from headend.store.lock import sole_owner

if __name__ == "__main__":
    with sole_owner(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
