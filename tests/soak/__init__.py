"""Whole worlds from seeds: the real command as processes against lying providers, kills and reorgs.

`make soak` runs fresh seeds for as long as it is told; `python -m soak --seed N` repeats one.
"""
