"""The same facts through native JetStream sources and through BSFG, in turn, at equal durability."""
