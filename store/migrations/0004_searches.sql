-- What operators look for is found by an index, however rare it is: store/src/records.rs.

CREATE INDEX records_consumer ON records (tenant, consumer, id);
CREATE INDEX records_route ON records (route, id);
CREATE INDEX records_error ON records (error, id);
