"""What bench/run.py is made of: peers, processes, load, results and their report."""
