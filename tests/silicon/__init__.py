"""Silicon is the judge: the same instruction bytes on the host CPU and on another CPU, compared bit by bit."""
