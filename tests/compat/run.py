"""Runs the suites that are named (all, without a name): one line a case, then one line a suite with the counts.

    run.py [-k PART] [SUITE...]

A suite is a list of modules. `-k` takes only cases whose name holds PART."""

import argparse
import faulthandler
import signal
import sys
import time
import unittest

SUITES = {
    "clients": ["test_librdkafka", "test_admin", "test_kafka_python", "test_aiokafka", "test_kcat", "test_java", "test_mqtt", "test_mosquitto", "test_cli", "test_inspect", "test_tools", "test_demo"],
    "input": ["test_input"],
    "abuse": ["test_abuse", "test_abuse_kafka"],
    "disk": ["test_full_disk", "test_quota", "test_clock", "test_formats", "test_compaction"],
    "faults": ["test_faults"],
    "upstream": ["test_upstream", "test_demo_upstream"],
    "soak": ["test_soak"],
    "kill": ["test_kill"],
    "power": ["test_power"],
}


class Result(unittest.TestResult):
    """Says each case as it ends."""

    def __init__(self):
        super().__init__()
        self.passed = 0
        self.began = 0.0

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()

    def _say(self, word, test, more=""):
        name = test.id() if hasattr(test, "id") else str(test)
        print(f"{word:<5} {name} ({time.monotonic() - self.began:.1f} s){more}", flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1
        self._say("ok", test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._say("skip", test, f": {reason}")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._say("FAIL", test, "\n" + self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self._say("FAIL", test, "\n" + self.errors[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._say("FAIL", subtest, "\n" + self._exc_info_to_string(err, test))


def main():
    # A hang leaves a trace of where it was.
    faulthandler.register(signal.SIGUSR1)
    arguments = argparse.ArgumentParser()
    arguments.add_argument("-k", default="")
    arguments.add_argument("suite", nargs="*", choices=[[], *SUITES])
    arguments = arguments.parse_args()
    failed = 0
    for name in arguments.suite or SUITES:
        loader = unittest.TestLoader()
        loader.testNamePatterns = [f"*{arguments.k}*"] if arguments.k else None
        result = Result()
        began = time.monotonic()
        # One run for all of them: between two runs with one result unittest would tear the last class down twice.
        unittest.TestSuite([loader.loadTestsFromName(module) for module in SUITES[name]]).run(result)
        bad = len(result.failures) + len(result.errors)
        failed += bad
        seconds = time.monotonic() - began
        print(f"suite {name}: {result.passed} passed, {bad} failed, {len(result.skipped)} skipped, {seconds:.0f} s", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
