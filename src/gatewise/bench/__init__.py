"""The benchmark ``gatewise bench``: the speed of gatewise and its peers on this machine, in one run."""
