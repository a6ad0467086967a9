-- Answers at rest, sealed: headers and body in one. Such a row's state is `not_retained`, with its status: what a release
-- that knows nothing of seals makes of it.
ALTER TABLE idempotency ADD COLUMN sealed BLOB;

-- Whether a request before the holder's may have taken effect.
ALTER TABLE idempotency ADD COLUMN in_doubt BIGINT NOT NULL DEFAULT 0;
