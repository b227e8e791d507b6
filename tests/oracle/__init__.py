"""The integer network in plain NumPy, after docs/arithmetic.md; imports neither earmark nor torch.

`ops` holds the equations, `ops_s16` and `ops_f32` those of 16 bits and of float32 layers, `network`
walks a plan with them.
"""
