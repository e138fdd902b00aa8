-- Pairs of neighbouring characters (m029_unspaced) on a PostgreSQL server, which has them among the words of images_text.
-- Here it has no effect but to merge some of the index.
INSERT INTO images_text_unspaced (images_text_unspaced, rank) VALUES ('merge', 100);
