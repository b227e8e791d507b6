"""The integer network in plain NumPy, after docs/arithmetic.md; imports neither earmark nor torch.

`ops` holds the equations, `network` walks a plan with them.
"""
