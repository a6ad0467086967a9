/* Denies a request that asks for larger pages than the settings allow. */

#include "tollgate_pack.h"

/* What TG_CONFIGURE leaves behind, every decision finds. */
static tg_slice parameter;
static uint64_t most;

TG_CONFIGURE(settings) {
  parameter = tg_json_text(tg_json_member(settings, TG("parameter")));
  if (!tg_is_there(parameter)) parameter = TG("limit");
  tg_number max = tg_parse(tg_json_member(settings, TG("max")));
  if (!max.is_there || max.value == 0) return tg_refuse(TG("`max` is at least 1"));
  most = max.value;
  return tg_ok();
}

TG_ON_REQUEST(request) {
  tg_slice asked = tg_query_param(request, parameter);
  if (!tg_is_there(asked)) return tg_continue();
  tg_number size = tg_parse(asked);
  if (size.is_there && size.value >= 1 && size.value <= most) return tg_continue();
  tg_decision denial = tg_deny(TG("page_too_large"), TG("Ask for smaller pages."));
  tg_status(&denial, 400);
  tg_detail(&denial, TG("parameter"), tg_json_quote(parameter));
  tg_detail(&denial, TG("max"), tg_digits(most));
  return denial;
}
