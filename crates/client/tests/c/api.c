/* Uses the library the way the plugin does: compiled as C against the header,
linked with the shared object. Arguments: port. */
#include "xylem_client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what) \
  do { \
    if (!(what)) { \
      char e[256]; \
      xylem_last_error(e, sizeof e); \
      fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #what, e); \
      return 1; \
    } \
  } while (0)

int main(int argc, char **argv) {
  xylem_config config;
  xylem_stats stats;
  xylem_page_request two[2];
  static unsigned char page[2][16384];
  char error[200], small[8];
  uint64_t us = 0;
  int round;

  if (argc != 2) return 2;
  CHECK(!xylem_is_enabled());
  CHECK(xylem_get_page(1, 1, 0, page, 16384) == XYLEM_DISABLED);
  CHECK(xylem_init(NULL, error, sizeof error) == XYLEM_INVALID);
  memset(&config, 0, sizeof config);
  CHECK(xylem_init(&config, small, sizeof small) == XYLEM_INVALID);
  CHECK(strlen(small) == 7);
  xylem_shutdown();

  config.address = "127.0.0.1";
  config.port = (uint16_t) atoi(argv[1]);
  config.epoch = 1;
  for (round = 0; round < 2; round++) {
    config.start_lsn = 12288 + 5 * (uint64_t) round;
    CHECK(xylem_init(&config, error, sizeof error) == XYLEM_OK);
    CHECK(xylem_is_enabled());
    CHECK(xylem_init(&config, error, sizeof error) == XYLEM_INVALID);
    CHECK(xylem_ping(&us) == XYLEM_OK && us > 0);
    CHECK(xylem_ping(NULL) == XYLEM_OK);
    CHECK(xylem_get_page(7, 3, 0, page[0], 16384) == XYLEM_OK);
    CHECK(xylem_get_page(7, 3, 0, NULL, 16384) == XYLEM_INVALID);
    CHECK(xylem_get_page(7, 3, 0, page[0], 1 << 20) == XYLEM_INVALID);
    CHECK(xylem_get_page_async(7, 3, 0, page[0], 16384, NULL, NULL) == XYLEM_INVALID);
    memset(two, 0, sizeof two);
    two[0].space_id = two[1].space_id = 7;
    two[0].page_no = 3;
    two[1].page_no = 4;
    two[0].buf = page[0];
    two[1].buf = page[1];
    two[0].size = two[1].size = 16384;
    CHECK(xylem_get_pages_batch(two, 2) == XYLEM_OK);
    CHECK(two[0].status == XYLEM_OK && two[1].status == XYLEM_OK);
    CHECK(memcmp(page[0], page[1], 16384) != 0);
    CHECK(xylem_stream_wal(config.start_lsn, "hello", 5) == XYLEM_OK);
    CHECK(xylem_wait_durable(config.start_lsn + 5) == XYLEM_OK);
    CHECK(xylem_durable_lsn() == config.start_lsn + 5);
    CHECK(xylem_stream_wal(1, "hello", 5) == XYLEM_INVALID);
    CHECK(xylem_set_timeouts(5000, 0) == XYLEM_OK);
    CHECK(xylem_open_tablespace(1, NULL, 0, NULL, 1) == XYLEM_INVALID);
    xylem_get_stats(&stats);
    CHECK(stats.pages_read == 3 && stats.lsn_durable == config.start_lsn + 5);
    CHECK(stats.connected == 1);
    xylem_shutdown();
    CHECK(!xylem_is_enabled());
  }
  puts("ok");
  return 0;
}
