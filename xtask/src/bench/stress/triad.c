/* The reference for memory bandwidth: the triad of STREAM, a = b + s * c, one line of GB/s for each pass.
   triad ARRAY_BYTES SECONDS */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    long n = atol(argv[1]) / 8;
    double seconds = atof(argv[2]);
    double *a = malloc(n * 8), *b = malloc(n * 8), *c = malloc(n * 8);
#pragma omp parallel for
    for (long i = 0; i < n; i++) a[i] = 0, b[i] = 1, c[i] = 2;
    double start = omp_get_wtime();
    for (int round = 0; round < 2 || omp_get_wtime() - start < seconds; round++) {
        double begun = omp_get_wtime();
#pragma omp parallel for
        for (long i = 0; i < n; i++) a[i] = b[i] + 3.0 * c[i];
        printf("%f\n", 24.0 * n / (omp_get_wtime() - begun) / 1e9);
    }
    return a[n / 2] != 7;
}
