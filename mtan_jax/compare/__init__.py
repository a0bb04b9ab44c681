"""Compares runs: tables over seeds, Delta-m, mean ranks, paired differences and figures."""
