#!/bin/bash
# The demo, run in the lab by `cargo xtask demo`.
set -eu
ipvsmeshd --help
