"""The diffusion maths: noise, schedule, sampler, stopping, the inner loop. No network in sight."""
