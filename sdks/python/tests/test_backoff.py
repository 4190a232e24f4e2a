from __future__ import annotations

import random
import unittest

from skytrail.backoff import LONGEST, SLOWLY, Backoff, Ending, retry_after


class Pauses(unittest.TestCase):
    def test_pauses_grow_to_a_limit_and_are_never_the_same(self) -> None:
        backoff = Backoff(random.Random(1))
        waited = 0.0
        self.assertEqual(backoff.limit, 1)
        while waited < 60:
            pause = backoff.pause(Ending())
            self.assertLessEqual(pause, 2)
            waited += pause
        for limit in (4, 8, 16, 30, 30):
            self.assertEqual(backoff.limit, limit)
            self.assertLessEqual(backoff.pause(Ending()), limit)
        self.assertGreater(len({backoff.pause(Ending()) for _ in range(50)}), 40)
        backoff.reset()
        self.assertLessEqual(backoff.pause(Ending()), 1)
        self.assertEqual(backoff.limit, 2)

    def test_a_wrong_key_and_a_broken_protocol_are_not_tried_again_soon(self) -> None:
        backoff = Backoff()
        for ending in (Ending(status=401), Ending(status=403), Ending(4002)):
            for _ in range(50):
                self.assertGreaterEqual(backoff.pause(ending), SLOWLY)

    def test_a_restart_is_met_by_all_workers_at_different_times(self) -> None:
        pauses = [Backoff().pause(Ending(1012)) for _ in range(200)]
        self.assertLessEqual(max(pauses), 5)
        self.assertGreater(max(pauses), 2.5)

    def test_after_a_restart_workers_spread_by_how_many_there_are(self) -> None:
        for num_workers, spread in ((1, 0.0), (2, 0.02), (101, 2.0), (10_000, 5.0)):
            pauses = [Backoff(num_workers=num_workers).pause(Ending(1012)) for _ in range(200)]
            self.assertLessEqual(max(pauses), spread)
            self.assertGreaterEqual(max(pauses), spread / 2)

    def test_a_server_that_restarts_is_tried_quickly_for_a_while(self) -> None:
        backoff = Backoff(random.Random(1), num_workers=1)
        self.assertEqual(backoff.pause(Ending(1012)), 0)
        waited = 0.0
        while waited < 15:
            pause = backoff.pause(Ending())
            self.assertTrue(0.1 <= pause <= 0.2, pause)
            waited += pause
        # Then it is like any other that is away.
        self.assertEqual(backoff.limit, 1)
        backoff.pause(Ending())
        self.assertEqual(backoff.limit, 2)
        # The number counts for one restart.
        backoff.reset()
        pauses = [backoff.pause(Ending(1012)) for _ in range(200)]
        self.assertGreater(max(pauses), 2.5)

    def test_a_server_that_refuses_says_how_long(self) -> None:
        busy = Ending(status=503, retry_after=7.0)
        pauses = [Backoff().pause(busy) for _ in range(200)]
        self.assertGreaterEqual(min(pauses), 7)
        self.assertLessEqual(max(pauses), 8)
        # Not longer than the longest pause of its own.
        self.assertLessEqual(Backoff().pause(Ending(status=503, retry_after=3600)), LONGEST + 1)
        restarting = Backoff(num_workers=1)
        restarting.pause(Ending(1012))
        self.assertGreaterEqual(restarting.pause(busy), 7)

    def test_only_seconds_of_a_header_count(self) -> None:
        for text, seconds in (("7", 7.0), ("", 0.0), ("-1", 0.0), ("soon", 0.0), ("nan", 0.0)):
            self.assertEqual(retry_after(text), seconds)
        self.assertEqual(retry_after("Wed, 21 Oct 2026 07:28:00 GMT"), 0.0)

    def test_codes_say_whether_to_come_back_and_whether_to_resume(self) -> None:
        final = {code for code in range(1000, 5000) if Ending(code).is_final}
        self.assertEqual(final, {4003, 4004, 4005, 4007})
        for code in (4006, 1006, None):
            self.assertFalse(Ending(code).is_session_lost)
        for code in (1000, 1009, 1012, 1013, 4002, 4008):
            self.assertTrue(Ending(code).is_session_lost)
        self.assertEqual(LONGEST, 30)
