-- The last step that earlier lives of the job have logged: what this one logs up to there, it trains again.
ALTER TABLE lives ADD COLUMN logged BIGINT;
UPDATE lives SET logged = (SELECT max(step) FROM events WHERE events.job = lives.job AND type = 'training.log');
