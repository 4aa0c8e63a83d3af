# Programming the kernel: from empty, one change, a restart, and doing nothing.
in_a_host hold --services 0 --side empty
in_a_host hold --services 10 --side among-10
in_a_host hold --services 10000 --side among-10000
# once: it takes a minute, and repeats to a thousandth
in_a_host fill --services 10000 --everything
