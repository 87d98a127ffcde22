"""What the gates did, as a picture: :func:`gatewise.gates.picture.gate_map`."""
