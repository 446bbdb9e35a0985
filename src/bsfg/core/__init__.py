"""Pure state machines: advance(state, event) -> (state, commands)."""
