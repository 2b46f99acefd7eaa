"""Dreaming and acting: the learned simulator, the policy on pixels, and rollouts of one in the other."""
