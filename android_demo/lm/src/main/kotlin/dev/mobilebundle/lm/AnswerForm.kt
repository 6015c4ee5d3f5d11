package dev.mobilebundle.lm

import org.json.JSONException
import org.json.JSONObject

/**
 * The form that an answer has: at every step the model chooses among the tokens that the form can go on with. One that ended
 * by itself ([FinishReason.END]) has all of it; one that was cut need not. Tell the model of the form, too: one that was not
 * told writes something valid and little else.
 */
sealed class AnswerForm {
    /**
     * JSON that a schema allows. [schema]: a JSON object, with the keywords that docs/SERVE.md lists; another one, or a use that
     * it does not list, is [ModelError.BadRequest], which says where. What is no JSON object at all is IllegalArgumentException.
     */
    data class JsonSchema(val schema: String) : AnswerForm() {
        init {
            try {
                JSONObject(schema)
            } catch (e: JSONException) {
                throw IllegalArgumentException("the schema is no JSON object: ${e.message}")
            }
        }
    }

    /** A text that matches a regular expression as a whole: of the kind that docs/SERVE.md describes. */
    data class Regex(val pattern: String) : AnswerForm()
}
