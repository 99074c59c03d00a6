"""The soak in its shortest form, and that it sees what grows."""

import os
import unittest

from soak import SERIES, Soak, judge

SECONDS = float(os.environ.get("HEADWATER_SOAK_SECONDS", "45"))


class Judged(unittest.TestCase):
    def test_what_grows_is_seen_and_spikes_are_not_taken_for_it(self):
        for name, (_, one, share, floor) in SERIES.items():
            allowed = max(floor, share * 50 * one)
            # Of what it may at the beginning: a series that grows has a larger median, too.
            for grows in (0.5, 4):
                points = [(t, 50 * one + grows * allowed * t / 40 + (t % 7 == 3) * 20 * one) for t in range(41)]
                grew, may = judge(name, points)
                self.assertEqual(grew > may, grows > 1, f"{name}: {grew} of {may}")


class Short(unittest.TestCase):
    def test_files_memory_and_latency_stay_flat_under_full_load(self):
        lines, grown = Soak(SECONDS).run().report()
        print("\n".join(lines))
        self.assertEqual(grown, [])


if __name__ == "__main__":
    unittest.main()
