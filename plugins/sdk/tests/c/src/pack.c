/* Asks everything that the C SDK can ask, and says everything that it can say, as `way` of the settings chooses. */

#include "../../../c/tollgate_pack.h"

static tg_slice way, text;
static tg_number number;

TG_CONFIGURE(settings) {
  way = tg_json_text(tg_json_member(settings, TG("way")));
  text = tg_json_text(tg_json_member(settings, TG("text")));
  number = tg_parse(tg_json_member(settings, TG("number")));
  if (!tg_is_there(way)) return tg_refuse(TG("`way` is missing"));
  return tg_ok();
}

static tg_slice quoted(tg_slice text) { return tg_is_there(text) ? tg_json_quote(text) : TG("null"); }

static tg_slice listed(tg_slices texts) {
  tg_slice list = TG("[");
  for (size_t i = 0; i < texts.length; i++) {
    if (i) list = tg_concat(list, TG(","));
    list = tg_concat(list, tg_json_quote(texts.at[i]));
  }
  return tg_concat(list, TG("]"));
}

static tg_slice digits(tg_number number) { return number.is_there ? tg_digits(number.value) : TG("null"); }

static tg_slice local(tg_slice zone) {
  tg_time time;
  if (!tg_local(zone, &time)) return TG("null");
  uint64_t parts[] = {(uint64_t)time.year, time.month, time.day, time.weekday, time.hour, time.minute, time.second};
  tg_slice list = TG("[");
  for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
    if (i) list = tg_concat(list, TG(","));
    list = tg_concat(list, tg_digits(parts[i]));
  }
  return tg_concat(list, TG("]"));
}

static tg_decision asked(tg_request request) {
  tg_log(TG_INFO, TG("asked"));
  tg_decision said = tg_deny(TG("asked"), TG("Everything that there is."));
  tg_status(&said, 418);
  tg_detail(&said, TG("method"), quoted(tg_method(request)));
  tg_detail(&said, TG("path"), quoted(tg_path(request)));
  tg_detail(&said, TG("query"), quoted(tg_query(request)));
  tg_detail(&said, TG("query_param"), quoted(tg_query_param(request, TG("q"))));
  tg_detail(&said, TG("no_query_param"), quoted(tg_query_param(request, TG("p"))));
  tg_detail(&said, TG("header"), quoted(tg_header(request, TG("X-One"))));
  tg_detail(&said, TG("empty_header"), quoted(tg_header(request, TG("x-empty"))));
  tg_detail(&said, TG("no_header"), quoted(tg_header(request, TG("x-none"))));
  tg_detail(&said, TG("headers_all"), listed(tg_headers_all(request, TG("x-one"))));
  tg_detail(&said, TG("header_names"), listed(tg_header_names(request)));
  tg_detail(&said, TG("body"), quoted(tg_request_body(request)));
  tg_detail(&said, TG("body_size"), digits(tg_body_size(request)));
  tg_detail(&said, TG("client_address"), quoted(tg_client_address(request)));
  tg_detail(&said, TG("route"), quoted(tg_route(request)));
  tg_detail(&said, TG("version"), quoted(tg_version(request)));
  tg_detail(&said, TG("tenant"), quoted(tg_tenant(request)));
  tg_detail(&said, TG("plan"), quoted(tg_plan(request)));
  tg_detail(&said, TG("consumer"), quoted(tg_consumer(request)));
  tg_detail(&said, TG("scopes"), listed(tg_scopes(request)));
  tg_detail(&said, TG("claim"), tg_claim(request, TG("org")));
  tg_detail(&said, TG("now"), tg_digits(tg_now()));
  tg_detail(&said, TG("local"), local((tg_slice){NULL, 0}));
  tg_detail(&said, TG("local_in_tokyo"), local(TG("Asia/Tokyo")));
  tg_detail(&said, TG("local_nowhere"), local(TG("Nowhere/Land")));
  tg_detail(&said, TG("random"), tg_random() == tg_random() ? TG("false") : TG("true"));
  tg_detail(&said, TG("data"), quoted(tg_data(TG("key"))));
  tg_detail(&said, TG("no_data"), quoted(tg_data(TG("other"))));
  tg_count(TG("seen"), 2);
  tg_detail(&said, TG("count"), tg_count(TG("seen"), 3).is_there ? TG("true") : TG("false"));
  tg_detail(&said, TG("text"), quoted(text));
  tg_detail(&said, TG("number"), digits(number));
  return said;
}

static tg_decision edited(tg_slice body) {
  tg_decision said = tg_edit();
  /* More than there is room for at first. */
  for (uint64_t i = 0; i < 10; i++) tg_append(&said, TG("x-number"), tg_digits(i));
  tg_set(&said, TG("x-one"), TG("1"));
  tg_remove(&said, TG("x-two"));
  tg_body(&said, tg_concat(body, TG("!")));
  return said;
}

static tg_decision answered(tg_slice body) {
  tg_decision said = tg_answer(203);
  tg_header_of_answer(&said, TG("x-one"), TG("1"));
  tg_header_of_answer(&said, TG("x-one"), TG("2"));
  tg_body(&said, body);
  return said;
}

TG_ON_REQUEST(request) {
  if (tg_equals(way, TG("ask"))) return asked(request);
  if (tg_equals(way, TG("edit"))) return edited(tg_request_body(request));
  if (tg_equals(way, TG("answer"))) return answered(tg_request_body(request));
  return tg_continue();
}

TG_ON_RESPONSE(request, response) {
  if (tg_equals(way, TG("edit"))) return edited(tg_response_body(response));
  if (tg_equals(way, TG("answer"))) return answered(tg_response_body(response));
  tg_decision said = tg_deny(TG("asked"), TG("Everything that there is."));
  tg_detail(&said, TG("path"), quoted(tg_path(request)));
  tg_detail(&said, TG("status"), tg_digits(tg_response_status(response)));
  tg_detail(&said, TG("header"), quoted(tg_response_header(response, TG("x-one"))));
  tg_detail(&said, TG("headers_all"), listed(tg_response_headers_all(response, TG("x-one"))));
  tg_detail(&said, TG("header_names"), listed(tg_response_header_names(response)));
  tg_detail(&said, TG("body"), quoted(tg_response_body(response)));
  return said;
}

TG_COST(request) { return (uint32_t)tg_path(request).length; }
