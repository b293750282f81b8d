"""What the sections are built with: who takes part and where (sides), frameworks, timing, networks, tables, the machine."""
