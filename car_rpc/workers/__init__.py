"""Worker processes: each holds one loaded model and speaks the frames of `car_rpc.wire.worker`.

The core never imports this package. Importing it imports nothing else, because a worker must
claim its standard streams first.
"""
