"""Runs plugins that were written for Skygear v1, as they are, over Skytrail's own transport."""
