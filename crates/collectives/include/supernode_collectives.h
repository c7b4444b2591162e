/* Collective communication that survives broken links: the C interface of supernode-collectives.
 * Written by `cargo xtask generate` from crates/collectives/src/c.rs; do not edit.
 *
 * Functions answer 0, or -1 and a text in supernode_collective_last_error(). They may be called from any thread. Operators of one
 * group are started in the same order on all ranks. */
#ifndef SUPERNODE_COLLECTIVES_H
#define SUPERNODE_COLLECTIVES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Kinds, data types, reductions. */
#define SUPERNODE_COLLECTIVE_ALL_REDUCE 1
#define SUPERNODE_COLLECTIVE_REDUCE_SCATTER 2
#define SUPERNODE_COLLECTIVE_ALL_GATHER 3
#define SUPERNODE_COLLECTIVE_BROADCAST 4
#define SUPERNODE_COLLECTIVE_REDUCE 5
#define SUPERNODE_COLLECTIVE_ALL_TO_ALL 6
#define SUPERNODE_COLLECTIVE_BARRIER 8
#define SUPERNODE_COLLECTIVE_SEND 16
#define SUPERNODE_COLLECTIVE_RECEIVE 17
#define SUPERNODE_COLLECTIVE_F32 0
#define SUPERNODE_COLLECTIVE_F64 1
#define SUPERNODE_COLLECTIVE_I32 2
#define SUPERNODE_COLLECTIVE_I64 3
#define SUPERNODE_COLLECTIVE_U8 4
#define SUPERNODE_COLLECTIVE_F16 5
#define SUPERNODE_COLLECTIVE_BF16 6
#define SUPERNODE_COLLECTIVE_SUM 0
#define SUPERNODE_COLLECTIVE_PRODUCT 1
#define SUPERNODE_COLLECTIVE_MIN 2
#define SUPERNODE_COLLECTIVE_MAX 3
#define SUPERNODE_COLLECTIVE_AVG 4

/* A rank of a group, and an operator that was started. */
typedef struct supernode_collective_group supernode_collective_group;
typedef struct supernode_collective_request supernode_collective_request;

/* What is done. Counts are elements. */
typedef struct {
  uint32_t kind;
  uint32_t data_type;
  uint32_t reduction; /* where the kind combines */
  uint32_t peer;      /* the root, or the other end of a message */
  uint64_t count;     /* elements: of the input, or of the output for a reduce-scatter */
  const uint64_t *send_counts;    /* all-to-all: for each rank */
  const uint64_t *receive_counts; /* all-to-all: from each rank */
} supernode_collective_operator;

/* Why the last call of this thread failed; valid until its next call. */
const char *supernode_collective_last_error(void);

/* Joins a group. `settings` has lines NAME=VALUE that go before the environment of the process (RANK, WORLD_SIZE,
 * SUPERNODE_COLLECTIVE_ROOT, _KEY, _GROUP, _EPOCH, _ADDRESSES, _SHARED_MEMORY, _RETRY_TIMEOUT_SECONDS, _MAX_RETRIES); it may be NULL. */
int32_t supernode_collective_join(const char *settings, uint64_t wait_milliseconds,
                                  supernode_collective_group **group);

/* Leaves it, after all requests were waited for. Waits until everybody has what they need from this rank. */
void supernode_collective_leave(supernode_collective_group *group);

/* Starts an operator. With `input` NULL the output is the input too. Both stay untouched until the request was waited for. */
int32_t supernode_collective_start(const supernode_collective_group *group,
                                   const supernode_collective_operator *operation, const void *input,
                                   void *output, supernode_collective_request **request);

/* 1 if it has ended, 0 if not. */
int32_t supernode_collective_test(const supernode_collective_request *request);

/* Waits until it has ended, and frees it. */
int32_t supernode_collective_wait(supernode_collective_request *request);

/* How often streams of this rank went on over a new connection. */
uint64_t supernode_collective_resumed(const supernode_collective_group *group);

#ifdef __cplusplus
}
#endif
#endif
