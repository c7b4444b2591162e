/* The reference for matrix multiplication: OpenBLAS on one core, one line of GFLOP/s for each multiplication.
   gemm f32|f64 SIZE SECONDS CORE */
#define _GNU_SOURCE
#include <cblas.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(atoi(argv[4]), &core);
    if (sched_setaffinity(0, sizeof core, &core)) return 1;
    int single = strcmp(argv[1], "f32") == 0;
    int n = atoi(argv[2]);
    double seconds = atof(argv[3]), flops = 2.0 * n * n * n;
    size_t elements = (size_t)n * n;
    void *a = malloc(elements * 8), *b = malloc(elements * 8), *c = malloc(elements * 8);
    for (size_t i = 0; i < elements; i++) {
        double x = (double)rand() / RAND_MAX - 0.5, y = (double)rand() / RAND_MAX - 0.5;
        if (single) ((float *)a)[i] = x, ((float *)b)[i] = y, ((float *)c)[i] = 0;
        else ((double *)a)[i] = x, ((double *)b)[i] = y, ((double *)c)[i] = 0;
    }
    double start = 0;
    for (int round = 0; round == 0 || now() - start < seconds; round++) {
        double begun = now();
        if (single) cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a, n, b, n, 0, c, n);
        else cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a, n, b, n, 0, c, n);
        if (round == 0) start = now(); /* to warm up */
        else printf("%f\n", flops / (now() - begun) / 1e9);
    }
    return 0;
}
