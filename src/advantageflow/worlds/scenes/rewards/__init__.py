"""Learned rewards of the drawn world: small, imperfect, and open to hacking, as their large cousins are."""
