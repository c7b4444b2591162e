/* An all-reduce from C. Build: cc collective.c -I crates/collectives/include -L target/debug -lsupernode_collectives
 * Run in a job of `supernode run`, or with RANK, WORLD_SIZE and SUPERNODE_COLLECTIVE_ROOT, _KEY, _GROUP set. */
#include <stdio.h>
#include <stdlib.h>

#include "supernode_collectives.h"

static void check(int32_t status) {
  if (status != 0) {
    fprintf(stderr, "error: %s\n", supernode_collective_last_error());
    exit(1);
  }
}

int main(void) {
  supernode_collective_group *group;
  check(supernode_collective_join(NULL, 60000, &group));
  int64_t numbers[3] = {1, 10, 100};
  supernode_collective_operator sum = {
      .kind = SUPERNODE_COLLECTIVE_ALL_REDUCE,
      .data_type = SUPERNODE_COLLECTIVE_I64,
      .reduction = SUPERNODE_COLLECTIVE_SUM,
      .count = 3,
  };
  supernode_collective_request *request;
  check(supernode_collective_start(group, &sum, NULL, numbers, &request));
  check(supernode_collective_wait(request));
  printf("%lld %lld %lld\n", (long long)numbers[0], (long long)numbers[1], (long long)numbers[2]);

  /* A mistake is named. */
  sum.data_type = 99;
  if (supernode_collective_start(group, &sum, NULL, numbers, &request) != -1) {
    return 1;
  }
  printf("%s\n", supernode_collective_last_error());
  supernode_collective_leave(group);
  return 0;
}
