"""The operator's commands: one file a noun, one short function a command; one module renders."""
