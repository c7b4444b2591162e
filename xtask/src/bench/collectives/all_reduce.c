/* All-reduce of floats in place, measured as `supernode collective bench` does: a barrier before each run, the time of a run is that
 * of the slowest rank, a tenth as many runs before do not count. Arguments: `BYTES:RUNS` each. Prints `BYTES MEDIAN_MICROSECONDS`. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int index = 1; index < argc; index++) {
        long bytes, runs;
        if (sscanf(argv[index], "%ld:%ld", &bytes, &runs) != 2 || bytes < 4 || runs < 1) {
            fprintf(stderr, "%s is not BYTES:RUNS\n", argv[index]);
            MPI_Abort(MPI_COMM_WORLD, 2);
        }
        long before = (runs + 9) / 10;
        float *buffer = calloc(bytes / 4, sizeof(float));
        double *times = malloc(runs * sizeof(double));
        for (long run = -before; run < runs; run++) {
            MPI_Barrier(MPI_COMM_WORLD);
            double begun = MPI_Wtime();
            MPI_Allreduce(MPI_IN_PLACE, buffer, (int)(bytes / 4), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
            if (run >= 0)
                times[run] = MPI_Wtime() - begun;
        }
        MPI_Allreduce(MPI_IN_PLACE, times, (int)runs, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        qsort(times, runs, sizeof(double), ascending);
        if (rank == 0)
            printf("%ld %.3f\n", bytes, times[(runs - 1) / 2] * 1e6);
        free(buffer);
        free(times);
    }
    MPI_Finalize();
    return 0;
}
