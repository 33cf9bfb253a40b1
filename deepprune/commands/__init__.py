"""Commands: each module runs the plan of one."""
