"""Pictures of gates: :func:`gatewise.gates.picture.gate_map`."""
