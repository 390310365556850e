"""Carry flows out: the only part that talks HTTP to upstreams. `base.py` says what every transport promises."""
