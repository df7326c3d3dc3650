"""How the seconds of a run are planned. No torch, no sleeping: an injected clock."""
