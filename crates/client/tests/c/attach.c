/* Replaces the plugin. Preloaded into a stock mariadbd, it initialises the library
when the process starts and shuts the library down when the process ends. */
#include "xylem_client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((constructor)) static void attach(void) {
  xylem_config config;
  char error[300];
  const char *port = getenv("XYLEM_TEST_PORT");
  if (!port) return;
  memset(&config, 0, sizeof config);
  config.address = "127.0.0.1";
  config.port = (uint16_t) atoi(port);
  config.epoch = 1;
  config.start_lsn = 12288;
  config.datadir = getenv("XYLEM_DATADIR");
  if (xylem_init(&config, error, sizeof error) != XYLEM_OK) {
    fprintf(stderr, "%s\n", error);
    exit(1);
  }
}

__attribute__((destructor)) static void detach(void) { xylem_shutdown(); }
