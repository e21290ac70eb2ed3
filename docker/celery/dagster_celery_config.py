"""Settings of the workers, as dagster-celery reads them. Those of who hands out the runs stand in dagster.yaml, and are the same."""

import os

broker_url = result_backend = os.environ["CELERY_BROKER"]
# A run that a busy worker has reserved is not given to a second one before this. In seconds.
broker_transport_options = {"visibility_timeout": 7 * 86_400}
worker_prefetch_multiplier = 1
# None is reserved while another runs: what a worker that is killed has reserved would be nobody's. Redis alone can do without.
worker_disable_prefetch = True
