/* Submits many batch jobs to Slurm from one process, the way a program would: by library, from several threads, one request per
 * job. Prints the seconds from the first request to the last answer.
 * usage: submitter CONNECTIONS JOBS hold|run SCRIPT */
#include <errno.h>
#include <pthread.h>
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int left, failed;
static int held;
static char script[65536];

static void *submit(void *unused)
{
	char *environment[] = { "PATH=/usr/bin:/bin", NULL };
	(void)unused;
	while (atomic_fetch_sub(&left, 1) > 0) {
		submit_response_msg_t *answer = NULL;
		job_desc_msg_t job;
		slurm_init_job_desc_msg(&job);
		job.name = "bench";
		job.user_id = getuid();
		job.group_id = getgid();
		job.script = script;
		job.environment = environment;
		job.env_size = 1;
		job.work_dir = "/";
		job.std_in = job.std_out = job.std_err = "/dev/null";
		job.min_nodes = job.max_nodes = 1;
		job.num_tasks = 1;
		if (held)
			job.priority = 0;
		if (slurm_submit_batch_job(&job, &answer) != 0) {
			if (atomic_fetch_add(&failed, 1) == 0)
				fprintf(stderr, "%s\n", slurm_strerror(errno));
		}
		if (answer)
			slurm_free_submit_response_response_msg(answer);
	}
	return NULL;
}

int main(int count, char **words)
{
	pthread_t threads[256];
	struct timespec start, end;
	FILE *file;
	int connections;

	if (count != 5 || (connections = atoi(words[1])) < 1 || connections > 256 || !(file = fopen(words[4], "r")))
		return 2;
	script[fread(script, 1, sizeof(script) - 1, file)] = 0;
	held = strcmp(words[3], "hold") == 0;
	slurm_init(NULL);
	left = atoi(words[2]);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int i = 0; i < connections; i++)
		if (pthread_create(&threads[i], NULL, submit, NULL) != 0)
			return 2;
	for (int i = 0; i < connections; i++)
		pthread_join(threads[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.6f\n", (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9);
	return failed ? 1 : 0;
}
